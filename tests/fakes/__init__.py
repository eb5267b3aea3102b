"""Stand-ins that fit a part's contract and record what they were asked. Never used in production code."""
