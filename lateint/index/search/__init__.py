"""From token matrices to ranked positions. Knows numbers only: no ids, no files, no SQL."""
