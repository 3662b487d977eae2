"""How a question is asked: runs that leave nothing behind, file systems with counters, contenders in turns, rows."""
