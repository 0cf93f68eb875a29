"""The rivals, one file each: what others publish, simplified as each file says."""
