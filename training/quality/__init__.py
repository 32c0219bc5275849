"""`make quality`: every baseline and every family on one collection, in one table that can be believed.

rows      which models are trained, and how
measured  one model or baseline: trained in a process of its own, measured through the served path
kept      what is done already, so that a run that was stopped goes on
ablation  what groups of features and seeds are worth, on validation
policies  what the policies cost, over their strength
document  what was measured, with intervals, as JSON
table     the same for people
command   `equipoise quality`
"""
