"""Discovery without a server: Kademlia, signed records and ZeqMesh gossip."""
