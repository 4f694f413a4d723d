import jinja2
import pytest

from icmoe_monai.visualize.page import page_template


@pytest.mark.parametrize("name", ["report.html", "analysis.html", "suggestions.html"])
def test_a_page_is_one_template_with_the_shared_style(name):
    assert page_template(name) is page_template(name)
    source, *_ = page_template(name).environment.loader.get_source(page_template(name).environment, name)
    assert '{% include "style.html" %}' in source
    assert "prefers-color-scheme" not in source


def test_what_a_template_is_given_is_escaped_and_what_it_lacks_is_an_error():
    environment = page_template("report.html").environment
    assert environment.from_string("{{ a }}").render(a="<b>") == "&lt;b&gt;"
    with pytest.raises(jinja2.UndefinedError, match="'b' is undefined"):
        environment.from_string("{{ b }}").render()
