"""What a process of any service needs: how it starts and ends, its logs, traces and probes, ports, gRPC, GPUs."""
