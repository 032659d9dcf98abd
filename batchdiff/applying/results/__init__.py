"""The results of a verb for each guest, as data for reports."""
