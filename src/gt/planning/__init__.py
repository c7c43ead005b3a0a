"""From one session's instructions to those of many workers: rules, the planner, collectives. No torch, no I/O."""
