"""Commands: what is typed at a shell, exit codes, and nothing that another program could want to import."""
