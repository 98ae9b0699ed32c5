"""Dense networks made switchable: one network whose nested sub-networks share its weights."""
