"""The door for data: tables with a checked schema, cleaning that says what it did, a split by time.

Order of the rooms: `tables` and `completejourney` bring tables that `schema`
accepts; `clean` drops rows and counts why; `dataset` turns tables into arrays;
`split` cuts them by time; `prepare` runs all of it. Must not know a model.
"""
