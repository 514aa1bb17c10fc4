"""Pure: what was observed, planned and achieved, told as status and conditions."""
