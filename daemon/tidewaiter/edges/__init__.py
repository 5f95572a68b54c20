"""The thin ring around the core: files, fsync, notifications, logs, the service manager.

Each module owns one kind of contact with the operating system and decides nothing about compliance.
"""
