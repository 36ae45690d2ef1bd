"""The sandbox: where programs run that a model has written.

    reward server (a thread)              zygote: a bare interpreter      program: a process of its own
      pool.Sandbox.run -- descriptors -->   zygote.serve ------ fork --->   play: confine, then target(item)
           |  deadline, output cap, SIGKILL                                          |
           '<----------------- pipes: output, errors, reply ------------------------'

A zygote is started with nothing of our environment, imports what programs need, and forks one process per program:
that is fast, and no program sees what another has left. Zygotes never read what programs are given or write:
they pass descriptors on, so that no program finds another's output in its own memory. A program confines itself
before its first line: an own uid where the zygote is root, resource limits, Landlock (nothing may be read but the
interpreter, nothing written), and a seccomp list of the system calls that it may make. Nothing else is allowed:
no new processes, no sockets, no signals to others.

Expected answers stay outside. A program says what it computed, never whether that is right.

Not protected: kernel faults, side channels, processor time within the deadline, the names, sizes and dates of
files, and reading the interpreter's own files. `probe` runs hostile programs at the start and refuses to go on where
one is not contained: the sandbox is never weakened in silence.

Modules that run inside import nothing of this project but each other, and nothing that is not in the standard library.
"""
