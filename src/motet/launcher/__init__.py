"""Start workers through torch elastic, stay until they have ended, and say what became of them.

::

    launch                    ``motet.launch``: for programs and notebooks
    workers                   start them and wait; used by ``motet run``, ``resume`` and ``plan`` as well
    options                   torchrun's, by torchrun's own parser
    agent                     what torch elastic does not do: stay on loopback, let workers end well
    hosts                     several hosts find each other, before any worker is started
    given                     what a host was given: the same as the others?
    network                   at which address the others reach it
    store_line                the store that they share, asked without being held up
    rendezvous                what torch elastic's agent asks of them
    outcome                   what came of it, when the workers could not agree on it themselves
    parcel                    Python callables on their way to the workers
    notebook, notebook_status shown below a notebook's cell; what a worker writes for it

The name `motet.launch` is taken, by the function. Nothing is imported here: torch elastic takes a while.
"""
