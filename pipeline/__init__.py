"""The top floor: definitions, partitions, automation, profiles, the `orchard` command, reports."""
