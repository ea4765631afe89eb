"""The same traces as in the simulator, over sockets: a client, the real router, mock engines."""
