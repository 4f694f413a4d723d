"""Measurements of time and memory, each compared in one run with what a user would take instead."""
