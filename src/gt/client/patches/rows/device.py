"""Patches: the device's generators, streams and memory, and two hooks of Python's own."""

from __future__ import annotations

from gt.client.patches import accelerator, by_device, destructors, generators, streams, warning_lines
from gt.client.patches.patch import SCRIPT, Patch

ACCELERATOR = "tests/oracle/test_accelerator.py"

DEVICE = (
    Patch(
        "torch",
        "Generator",
        by_device.standing_for("torch", generators.Generator, generators.is_for_remote),
        "C++ makes generators for devices that have a C++ hook",
        "tests/oracle/test_generators.py::test_a_generator_for_the_device_draws_a_cpus_numbers",
    ),
    Patch(
        "torch",
        "Stream",
        by_device.standing_for("torch", streams.Stream, streams.is_stream_for_remote),
        "in C++ a stream of a Python device never waits",
        f"{ACCELERATOR}::test_streams_and_events_wait_for_the_worker",
    ),
    Patch(
        "torch",
        "Event",
        by_device.standing_for("torch", streams.Event, streams.is_event_for_remote),
        "in C++ an event of a Python device never waits, and has no time",
        f"{ACCELERATOR}::test_streams_and_events_wait_for_the_worker",
    ),
    Patch(
        "torch.accelerator torch.accelerator.memory",
        "empty_cache empty_host_cache get_memory_info memory_stats memory_allocated max_memory_allocated memory_reserved"
        " max_memory_reserved reset_accumulated_memory_stats reset_peak_memory_stats",
        accelerator.answering,
        "they reach for C++ hooks that a Python device cannot give",
        f"{ACCELERATOR}::test_memory_is_counted",
        since="2.13",
    ),
    Patch(
        "torch.accelerator",
        "synchronize set_device_index set_device_idx current_stream",
        accelerator.answering,
        "the same: in C++ nothing waits, and every index is accepted",
        f"{ACCELERATOR}::test_streams_and_events_wait_for_the_worker",
        since="2.13",
    ),
    Patch(
        "torch.accelerator",
        "get_device_capability",
        accelerator.capability,
        "the same",
        f"{ACCELERATOR}::test_the_accelerator_says_which_dtypes_are_converted",
        since="2.13",
    ),
    Patch(
        "torch.accelerator.device_index",
        "__enter__",
        accelerator.checking_index,
        "the same",
        f"{ACCELERATOR}::test_another_index_than_the_one_device_has_is_an_error",
        since="2.13",
    ),
)
PROCESS = (
    Patch(
        "warnings",
        "_showwarnmsg",
        warning_lines.naming_users_line,
        "a warning names the user's line, not the one of GT that stands in between",
        f"{SCRIPT}[warned]",
    ),
    Patch(
        "sys",
        "unraisablehook",
        destructors.explaining,
        "a destructor that computes when the session has ended would speak of a missing backend",
        "tests/oracle/test_program_end.py::test_a_destructor_that_computes_when_the_session_has_ended_is_told_so",
    ),
)
PATCHES = (*DEVICE, *PROCESS)
