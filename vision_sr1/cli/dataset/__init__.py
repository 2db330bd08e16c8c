"""Data sets looked at and rewritten: checked, shown as a page, written as files."""
