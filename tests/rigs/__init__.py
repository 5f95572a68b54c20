"""Rigs that break the machine under tidewaiter on purpose, and tell whether anything was lost.

Owns: power loss (`power_loss`), failing and short system calls (`faulty_disk`), SIGKILL at any write-like call
(`kill`) and at random moments under load (`load`), system calls seen or failed from outside (`strace`), a disk that is
really full (`tmpfs`), and the comparison of two runs (`compare`). Leaves to the tests what is run and what must hold
afterwards; `example` is a small user of `Disk` on which the rigs are tested themselves.

The disks can be put around each other: ``FaultyDisk(plan, inner=RecordingDisk(root))``.
"""
