"""What outlives the process: the journal of pulls and models, and the removal of what no model needs."""
