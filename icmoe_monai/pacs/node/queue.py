"""The node's queue: which studies it has accepted, how far each is, and which results are at which peer.

It is one SQLite file, so that a process that is killed at any moment leaves either the state before a step or the state
after it. A study goes from `receiving` (its images still arrive) by `complete`, `predicting`, `predicted` and `sending`
to `sent`, or to `failed` with a reason; a late image takes it back to `receiving`. A result is sent to each peer on its
own.

The file holds no data of a patient and no UID: studies and results are known by digests, with a key that never leaves
the file, so that none of them can be found by trying.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from icmoe_monai.errors import InputError, kind_of

QUEUE = "queue.sqlite"
STATES = ("receiving", "complete", "predicting", "predicted", "sending", "sent", "failed")
_FIRST_WAIT = 2.0
_LONGEST_WAIT = 900.0
_SECONDS_TO_LOCK = 30.0
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS node (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS studies (
    study TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('receiving', 'complete', 'predicting', 'predicted', 'sending', 'sent',
                                         'failed')),
    reason TEXT NOT NULL DEFAULT '',
    tries INTEGER NOT NULL DEFAULT 0,
    instances INTEGER NOT NULL DEFAULT 0,
    changed REAL NOT NULL,
    due REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS results (
    study TEXT NOT NULL REFERENCES studies,
    result TEXT NOT NULL,
    peer TEXT NOT NULL,
    file TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'sending', 'sent', 'failed')),
    reason TEXT NOT NULL DEFAULT '',
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (study, result, peer)
);
CREATE INDEX IF NOT EXISTS studies_by_state ON studies (state);
CREATE INDEX IF NOT EXISTS results_by_state ON results (state);
"""


class Result(NamedTuple):
    """A result that is to be sent.

    Attributes:
        study: Digest of its study.
        result: Digest of its UID.
        peer: Name of the peer that it goes to.
        file: Its path in the folder of the study's results.
        tries: How often it was tried to send it, this time included.
    """

    study: str
    result: str
    peer: str
    file: str
    tries: int


class Queue:
    """The studies of a node, in a file; several threads and processes may use one at a time.

    Args:
        folder: Folder of the node, in which the file lies or is made.
        most_tries: After how many tries a study or a result has failed.

    Raises:
        InputError: If the file cannot be used.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     queue = Queue(folder)
        ...     study = queue.digest("1.2.3")
        ...     queue.receive(study)
        ...     queue.complete_quiet(0)
        ...     assert queue.begin_prediction() == study
        ...     queue.end_prediction(study, {queue.digest("1.2.4"): "segmentations/a.dcm"}, ["STORE"])
        ...     result = queue.begin_sending("STORE")
        ...     queue.end_sending(result)
        ...     print(queue.state_of(study), result.file)
        ...     queue.close()
        ('sent', '') segmentations/a.dcm
    """

    def __init__(self, folder: str | Path, *, most_tries: int = 10) -> None:
        self.path = Path(folder, QUEUE)
        self.most_tries = most_tries
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(
                self.path, timeout=_SECONDS_TO_LOCK, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # what is accepted survives a loss of power too
            self._db.executescript(_SCHEMA)
            self._key = self._find_key()
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path} cannot be used ({kind_of(error)}): see whether its folder can be written and has space; "
                "if the file is damaged, put it aside, and send its studies again."
            ) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def digest(self, uid: str) -> str:
        """Return by what a study, an image or a result is known here: 32 hexadecimal digits.

        Args:
            uid: Its UID.
        """
        return hashlib.blake2b(uid.encode(), key=self._key, digest_size=16).hexdigest()

    def restart(self) -> None:
        """Let the quiet time of open studies begin anew, for nobody could send anything while there was no node."""
        with self._transaction() as db:
            db.execute("UPDATE studies SET changed = ? WHERE state = 'receiving'", (time.time(),))

    def receive(self, study: str) -> None:
        """Note that a new image of a study has arrived; a study that was complete is opened again.

        Args:
            study: The study.
        """
        with self._transaction() as db:
            db.execute(
                "INSERT INTO studies (study, state, instances, changed) VALUES (?, 'receiving', 1, ?) "
                "ON CONFLICT (study) DO UPDATE SET state = 'receiving', reason = '', tries = 0, due = 0, "
                "instances = instances + 1, changed = excluded.changed",
                (study, time.time()),
            )

    def complete_quiet(self, seconds: float) -> None:
        """Take as complete every study of which nothing has arrived for some time.

        Args:
            seconds: The time.
        """
        now = time.time()
        with self._transaction() as db:  # where the clock was set back, a study has waited long enough
            db.execute(
                "UPDATE studies SET state = 'complete' WHERE state = 'receiving' AND NOT changed BETWEEN ? AND ?",
                (now - seconds, now),
            )

    def begin_prediction(self) -> str | None:
        """Return a complete study that is to be predicted now, the one that waits longest; None: there is none.

        One at a time is predicted: a study whose prediction did not end, as the process was killed, is complete again.
        """
        with self._transaction() as db:
            db.execute("UPDATE studies SET state = 'complete' WHERE state = 'predicting'")
            row = db.execute(
                "SELECT study, tries FROM studies WHERE state = 'complete' AND due <= ? ORDER BY due, changed LIMIT 1",
                (time.time(),),
            ).fetchone()
            if row is None:
                return None
            if row[1] >= self.most_tries:  # each try has ended this process
                db.execute("UPDATE studies SET state = 'failed', reason = 'killed' WHERE study = ?", row[:1])
                return self.begin_prediction()
            db.execute("UPDATE studies SET state = 'predicting', tries = tries + 1 WHERE study = ?", row[:1])
            return str(row[0])

    def end_prediction(self, study: str, results: Mapping[str, str], peers: Collection[str], reason: str = "") -> None:
        """Note the results of a study, which go to the peers; if an image has come meanwhile, the study stays open.

        Args:
            study: The study.
            results: The path of each result by its digest.
            peers: Names of the peers.
            reason: What was not done, if anything.
        """
        with self._transaction() as db:
            if self.state_of(study)[0] != "predicting":
                return
            known = db.execute("SELECT result, peer, state FROM results WHERE study = ?", (study,)).fetchall()
            for result, peer, state in known:
                if state != "sent" and (result not in results or peer not in peers):
                    db.execute("DELETE FROM results WHERE study = ? AND result = ? AND peer = ?", (study, result, peer))
            db.executemany(
                "INSERT INTO results (study, result, peer, file, state) VALUES (?, ?, ?, ?, 'waiting') "
                "ON CONFLICT DO UPDATE SET file = excluded.file",
                [(study, result, peer, file) for result, file in results.items() for peer in peers],
            )
            db.execute(
                "UPDATE studies SET state = 'predicted', reason = ?, tries = 0, due = 0 WHERE study = ?",
                (reason, study),
            )
            self._settle(study)

    def fail_prediction(self, study: str, reason: str, *, again: bool) -> None:
        """Note that a study could not be predicted.

        Args:
            study: The study.
            reason: Why, in a word.
            again: Whether it is worth another try, after a wait that grows with each.
        """
        with self._transaction() as db:
            state, tries = db.execute("SELECT state, tries FROM studies WHERE study = ?", (study,)).fetchone()
            if state == "predicting":
                state = "complete" if again and tries < self.most_tries else "failed"
                db.execute(
                    "UPDATE studies SET state = ?, reason = ?, due = ? WHERE study = ?",
                    (state, reason, time.time() + wait_after(tries), study),
                )

    def give_back(self, study: str) -> None:
        """Take a study as complete whose prediction was stopped in good order, which counts as no try.

        Args:
            study: The study.
        """
        with self._transaction() as db:
            db.execute(
                "UPDATE studies SET state = 'complete', tries = tries - 1 WHERE study = ? AND state = 'predicting'",
                (study,),
            )

    def begin_sending(self, peer: str) -> Result | None:
        """Return a result that is to be sent to a peer now, the one that waits longest; None: there is none.

        Those of a study that is open again wait for its prediction, which may replace them. One at a time goes to a
        peer: a result whose sending did not end, as the process was killed, waits again.

        Args:
            peer: Name of the peer.
        """
        with self._transaction() as db:
            db.execute("UPDATE results SET state = 'waiting' WHERE state = 'sending' AND peer = ?", (peer,))
            row = db.execute(
                "SELECT study, result, peer, file, results.tries + 1 FROM results JOIN studies USING (study) "
                "WHERE results.state = 'waiting' AND peer = ? AND results.due <= ? "
                "AND studies.state IN ('predicted', 'sending') ORDER BY results.due, studies.changed LIMIT 1",
                (peer, time.time()),
            ).fetchone()
            if row is None:
                return None
            result = Result(*row)
            self._set(result, "sending", tries=result.tries)
            db.execute("UPDATE studies SET state = 'sending' WHERE study = ?", (result.study,))
            return result

    def end_sending(self, result: Result) -> None:
        """Note that a result is at its peer.

        Args:
            result: The result.
        """
        with self._transaction():
            self._set(result, "sent", tries=result.tries)
            self._settle(result.study)

    def fail_sending(self, result: Result, reason: str) -> None:
        """Note that a result could not be sent: it is tried again after a wait that grows, until it has failed.

        Args:
            result: The result.
            reason: Why, in a word.
        """
        with self._transaction():
            has_failed = result.tries >= self.most_tries
            due = time.time() + wait_after(result.tries)
            self._set(result, "failed" if has_failed else "waiting", tries=result.tries, reason=reason, due=due)
            self._settle(result.study)

    def retry(self) -> int:
        """Open failed studies again, and return how many they were."""
        with self._transaction() as db:
            found = db.execute("SELECT study FROM studies WHERE state = 'failed'").fetchall()
            for (study,) in found:
                of_results = db.execute(
                    "UPDATE results SET state = 'waiting', tries = 0, due = 0 WHERE study = ? AND state = 'failed'",
                    (study,),
                )
                db.execute(
                    "UPDATE studies SET state = ?, tries = 0, due = 0, reason = '' WHERE study = ?",
                    ("predicted" if of_results.rowcount else "complete", study),
                )
            return len(found)

    def settled_before(self, moment: float) -> list[str]:
        """Return the studies that were sent, and of which nothing has arrived since a moment.

        Args:
            moment: Seconds since 1970.
        """
        with self._lock:
            rows = self._db.execute("SELECT study FROM studies WHERE state = 'sent' AND changed < ?", (moment,))
            return [study for (study,) in rows]

    def state_of(self, study: str) -> tuple[str, str]:
        """Return a study's state and reason, empty if it is not known.

        Args:
            study: The study.
        """
        with self._lock:
            row = self._db.execute("SELECT state, reason FROM studies WHERE study = ?", (study,)).fetchone()
            return ("", "") if row is None else (row[0], row[1])

    def counts(self) -> dict[str, int]:
        """Return how many studies are in each state."""
        with self._lock:
            found = dict(self._db.execute("SELECT state, count(*) FROM studies GROUP BY state").fetchall())
        return {state: found.get(state, 0) for state in STATES}

    def unsent(self) -> int:
        """Return how many results are on their way to a peer, or could not be sent."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM results WHERE state != 'sent'").fetchone()[0])

    def peers(self) -> set[str]:
        """Return the names of the peers for which results wait."""
        with self._lock:
            return {peer for (peer,) in self._db.execute("SELECT DISTINCT peer FROM results WHERE state != 'sent'")}

    def reasons(self) -> dict[str, int]:
        """Return how many studies have failed for each reason."""
        with self._lock:
            rows = self._db.execute("SELECT reason, count(*) FROM studies WHERE state = 'failed' GROUP BY reason")
            return dict(rows.fetchall())

    def _find_key(self) -> bytes:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO node VALUES ('key', ?), ('version', ?)", (os.urandom(32), _VERSION))
            found = dict(db.execute("SELECT name, value FROM node").fetchall())
        if found["version"] != _VERSION:
            raise InputError(f"{self.path} was made by another version of this package: choose another folder.")
        return bytes(found["key"])

    def _set(self, result: Result, state: str, *, tries: int, reason: str = "", due: float = 0.0) -> None:
        self._db.execute(
            "UPDATE results SET state = ?, tries = ?, reason = ?, due = ? WHERE study = ? AND result = ? AND peer = ?",
            (state, tries, reason, due, result.study, result.result, result.peer),
        )

    def _settle(self, study: str) -> None:
        """Take a study as sent or failed once no result of it is on its way."""
        rows = self._db.execute("SELECT state, reason FROM results WHERE study = ?", (study,)).fetchall()
        states = {state for state, _ in rows}
        if not states & {"waiting", "sending"}:
            reasons = [reason for state, reason in rows if state == "failed"]
            self._db.execute(
                "UPDATE studies SET state = ?, reason = iif(? = '', reason, ?) "
                "WHERE study = ? AND state IN ('predicted', 'sending')",
                ("failed" if reasons else "sent", *(reasons or [""])[:1] * 2, study),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all of a `with` block or nothing; a block in a block is part of the outer one."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def wait_after(tries: int) -> float:
    """Return how many seconds to wait after so many tries: twice as long after each, and a quarter of an hour at most.

    Args:
        tries: The tries.

    Example:
        >>> [wait_after(tries) for tries in (1, 2, 3, 30)]
        [2.0, 4.0, 8.0, 900.0]
    """
    return float(min(_FIRST_WAIT * 2 ** (min(tries, 30) - 1), _LONGEST_WAIT))
