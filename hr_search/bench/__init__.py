"""The speed benchmark: both sides of each case, in processes of their own, and the tables they fill."""
