"""The numbers that the README states: ``make bench``."""
