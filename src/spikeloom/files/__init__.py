"""Files at the door: everything that is read or written, except data sets. No arithmetic."""
