"""From purchases to a release bundle: data, models, evaluation, export.

May import the shared rooms of the server (bundle, events, features, fairness,
model, engine, errors); must not import bench, nor know the wire.
"""
