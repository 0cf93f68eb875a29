"""What a step time means to users: requests replayed through the scheduler with predicted steps."""
