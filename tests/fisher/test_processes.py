import os
import socket
import subprocess
import sys

import numpy as np

import fisher

_PROGRAM = """
import sys
import jax
import numpy as np
import fisher

port, process, rows, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))
mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
assert len(mesh.devices.flat) == 2 and jax.local_device_count() == 1
gmm = fisher.GMM(6, mesh=mesh).fit(np.load(rows))
np.savez(out, means=gmm.means_, covariances=gmm.covariances_, weights=gmm.weights_)
"""


def test_two_processes_fit_the_mixture_of_one(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows[:, :8])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", _PROGRAM, port]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [*command, str(i), tmp_path / "rows.npy", tmp_path / f"{i}.npz"], env=environment
        )
        for i in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one = fisher.GMM(6).fit(rows[:, :8])
    for i in range(2):
        with np.load(tmp_path / f"{i}.npz") as two:
            np.testing.assert_allclose(two["means"], one.means_, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(two["covariances"], one.covariances_, rtol=1e-6)
            np.testing.assert_allclose(two["weights"], one.weights_, rtol=1e-6)
