"""What faces clients: the listening server, who may enter, bodies of requests and responses of our own, the page."""
