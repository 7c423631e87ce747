"""Jobs: what to train. Described in a jobs file, on the command line or in Python, and checked before it starts.

From bottom to top: `names`, `place`, `script`, `spec`, `yaml_text`, `entry`, `sweep`, `file`, `each`, `parameters`;
`check` looks at what they give with the help of `check_child`, which runs in a process of its own.

`source` hands jobs to a run, `surroundings` are what each finds when it begins, `outcome` says how it has ended.
"""

from __future__ import annotations

from motet.jobs.check import check_specs
from motet.jobs.each import specs_from_each
from motet.jobs.file import load_jobs_file
from motet.jobs.names import check_name
from motet.jobs.place import check_cwd, fill_in, found_from
from motet.jobs.script import JobExit, Script
from motet.jobs.spec import COMPRESS, Job, JobSpec, check_compress, in_cwd

__all__ = [
    "COMPRESS",
    "Job",
    "JobExit",
    "JobSpec",
    "Script",
    "check_compress",
    "check_cwd",
    "check_name",
    "check_specs",
    "fill_in",
    "found_from",
    "in_cwd",
    "load_jobs_file",
    "specs_from_each",
]
