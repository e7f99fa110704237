complete --keep-order --exclusive --command balance --arguments "(COMPLETE=fish /usr/sbin/balance -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
