"""What takes long to show about agents that a judge teaches: whole trainings against controls. `python -m tests.criteria --help`."""
