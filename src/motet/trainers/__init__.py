"""What a framework's trainer knows of the training that it owns; it is found on the stack, nothing is imported.

::

    length                    how many turns it is going to take
    metrics                   what it logs
"""
