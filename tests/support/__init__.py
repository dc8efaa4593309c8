"""What tests share. Import it as ``support``: pytest puts the folder of conftest.py on the path."""
