"""Where each job's lines go: streams that know their job (`streams`), put in place in its first turn (`per_job`)."""
