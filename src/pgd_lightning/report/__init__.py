"""Pages, tables and figures of one run and of many."""
