"""Reading perf's report."""

from __future__ import annotations

from bench import profiling

REPORT = """\
# Samples: 1K of event 'task-clock:ppp'
#
# Overhead  Shared Object                                       Symbol
# ........  ..................................................  ...............
#
    31.25%  [kernel.kallsyms]                                   [k] finish_task_switch.isra.0     -      -
     7.50%  libcrypto.so.3                                      [.] aesni_gcm_encrypt
     2.40%  _flow.cpython-311-x86_64-linux-gnu.so               [.] __pyx_f_7ztunnel_5_flow_flow_read
     1.10%  [kernel.kallsyms]                                   [k] tcp_sendmsg_locked

# With everything called from there
# Children      Self  Shared Object          Symbol
    90.00%     0.10%  [kernel.kallsyms]      [k] do_syscall_64
    40.50%     0.20%  [kernel.kallsyms]      [k] do_writev           -      -
    30.50%     0.20%  [kernel.kallsyms]      [k] ksys_read           -      -
    30.10%     0.20%  [kernel.kallsyms]      [k] do_iter_readv_writev
     9.50%     0.30%  [kernel.kallsyms]      [k] __x64_sys_epoll_wait
"""


def test_the_dearest_symbols_are_read() -> None:
    assert profiling.top(REPORT, 2) == [
        (31.25, "[kernel.kallsyms]", "finish_task_switch.isra.0"),
        (7.5, "libcrypto.so.3", "aesni_gcm_encrypt"),
    ]


def test_shares_of_objects_add_up() -> None:
    shares = profiling.by_object(REPORT)
    assert list(shares) == ["[kernel.kallsyms]", "libcrypto.so.3", "_flow.cpython-311-x86_64-linux-gnu.so"]
    assert round(shares["[kernel.kallsyms]"], 2) == 32.35


def test_system_calls_are_told_with_all_they_did() -> None:
    assert profiling.by_call(REPORT) == [(40.5, "writev"), (30.5, "read"), (9.5, "epoll_wait")]
