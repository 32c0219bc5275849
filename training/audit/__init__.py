"""Who is treated how: the item side and the user side of every policy, and what fairness costs.

Owns all use of user attributes besides `training.user_groups`. Protected attributes are only
read here: no list, score or feature depends on them.
"""
