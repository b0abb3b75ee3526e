"""What the `local` sandbox does not stop, started as root (as any other user it stops less).

The first part is tried by its tests: each must get through in `local`, else the list is not true any more. The
second is not tried there, because it would use up, or talk to, what lies outside of the tests. SECURITY.md shows both.
"""

GETS_THROUGH: dict[str, str] = {
    "test_reaching_redis_postgres_and_a_service_of_the_worker_on_the_host_s_loopback": "services of the host",
    "test_reaching_another_sandbox_by_its_abstract_socket": "sockets of other sandboxes without a path",
    "test_reading_another_sandbox_s_files": "files of other sandboxes",
    "test_finding_and_signalling_another_sandbox_s_processes": "processes of other sandboxes",
    "test_meeting_another_sandbox_in_shared_memory": "shared memory of other sandboxes",
    "test_a_user_namespace_in_which_it_is_root": "user namespaces, where the host allows them",
    "test_the_kernel_s_keyrings": "the keyring that belongs to its user",
}

NOT_TRIED: dict[str, str] = {
    "test_reaching_the_host_by_the_gateway_of_the_engine_s_bridge": "networks of the host",
    "test_reaching_the_metadata_service_of_a_cloud": "the metadata service of a cloud",
    "test_telling_something_to_the_world_by_dns": "DNS",
    "test_pushing_to_another_branch_or_another_remote": "the internet, with whatever passwords it finds",
    "test_killing_all_that_can_be_killed_costs_only_the_helper": "signals to everything that runs as its user",
    "test_a_bomb_of_memory_that_belongs_to_no_process": "memory of all processes together, and that of no process",
    "test_a_bomb_of_pipes": "memory of all processes together, and that of no process",
    "test_a_bomb_of_cached_files": "memory of all processes together, and that of no process",
    "test_a_bomb_of_disk": "the disk, file by file",
    "test_a_bomb_of_inodes": "the disk, file by file",
    "test_a_loop_of_the_processor_is_held_to_its_share": "every processor, for as long as a command may take",
    "test_what_a_command_is_left_with": "setuid programs of the host",
}
