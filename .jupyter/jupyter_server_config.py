# Read by `make lab` (JUPYTER_CONFIG_PATH) beside a person's own settings.
c = get_config()  # noqa: F821
c.Application.log_level = "ERROR"  # the address is printed all the same
c.KernelManager.transport = "ipc"  # sockets in a folder of one's own instead of open ports on this machine
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
