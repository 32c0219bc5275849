"""From purchases to a release bundle: data, models, evaluation, export.

May import the shared rooms of the server (bundle, events, features, fairness,
model, engine, errors); must not import bench, nor know the wire.
"""

import os

# Threads that wait for each other in a busy loop, as torch's do by default, keep a busy machine from the
# very work that they wait for: a step took ten times as long there. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
