"""The runs that there are: what their folders record, and the table of `vitlit runs`."""
