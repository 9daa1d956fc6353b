"""What several test files share that is no fixture (those are in ``conftest.py``)."""
