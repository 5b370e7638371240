"""The course kit: assignments, the grader that runs students' code in a process of its own, and the leaderboard."""
