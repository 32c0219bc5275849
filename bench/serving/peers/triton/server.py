"""Triton with its Python backend: the server binary that nvidia-pytriton carries, used by itself.

Its wheel `tritonserver` on PyPI has no file for this platform, so the binary of nvidia-pytriton is
taken, with Triton's own options and without PyTriton's proxy: the model runs in the backend's stub.

Tuning: one instance; dynamic batching up to 16, once without a delay, where a batch forms while the
last one runs, and once with 0.5 ms, which fills batches under load; HTTP, metrics and logs off; gRPC
with raw tensors; onnxruntime one thread. Tried as well: batches up to 8, 32 and 64, a delay of 0.1 ms.
With ids as text the backend looks their numbers up, as Equipoise does for its callers.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from bench.serving.peers.settings import MAX_BATCH, Settings

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "history" data_type: {kind} dims: [ -1 ] }},
  {{ name: "candidates" data_type: {kind} dims: [ -1 ] }}
]
output [ {{ name: "items" data_type: {kind} dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
parameters {{ key: "work" value {{ string_value: "{work}" }} }}
parameters {{ key: "texts" value {{ string_value: "{texts}" }} }}
"""


def main() -> None:
    import pytriton

    settings = Settings.read()
    repository = settings.scratch_folder / "models"
    version = repository / settings.name / "1"
    version.mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("backend.py"), version / "model.py")
    (version.parent / "config.pbtxt").write_text(
        CONFIG.format(
            name=settings.name,
            batch=MAX_BATCH,
            delay_us=settings.delay_us,
            work=settings.work,
            kind="TYPE_STRING" if settings.texts else "TYPE_INT32",
            texts="yes" if settings.texts else "",
        )
    )
    package = Path(pytriton.__file__).parent
    triton = package / "tritonserver"
    # The backend looks for the stub of this interpreter beside itself.
    backends = settings.scratch_folder / "backends"
    shutil.copytree(triton / "backends", backends)
    stub = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(
        triton / "python_backend_stubs" / stub / "triton_python_backend_stub", backends / "python"
    )
    libraries = package.parent / "nvidia_pytriton.libs"
    path = os.pathsep.join([str(libraries), os.environ.get("LD_LIBRARY_PATH", "")])
    # The stub's interpreter finds this virtual environment by the first python on the path.
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    binary = str(triton / "bin" / "tritonserver")
    os.execve(
        binary,
        [
            binary,
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={settings.port}",
            "--log-info=false",
            "--exit-timeout-secs=5",
        ],
        os.environ | {"LD_LIBRARY_PATH": path, "PATH": programs},
    )


if __name__ == "__main__":
    main()
