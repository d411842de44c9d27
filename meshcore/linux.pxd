# The kernel and libc as the loops use them. Extern declarations only; nothing else writes `cdef extern`
# for these headers. Convention of all: -1 and errno on failure, unless a comment says otherwise.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport mode_t, off_t, pid_t

cdef extern from "<sys/epoll.h>" nogil:
    cdef union epoll_data_t:
        void *ptr
        int fd
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    const uint32_t EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLERR, EPOLLHUP, EPOLLET
    const int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *iov, int count)
    ssize_t writev(int fd, const iovec *iov, int count)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cdef struct linger:
        int l_onoff
        int l_linger
    const int AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SHUT_RD, SHUT_WR
    const int SO_MARK, SO_KEEPALIVE, SO_LINGER, SO_ERROR, SCM_RIGHTS, MSG_NOSIGNAL, MSG_DONTWAIT, MSG_CMSG_CLOEXEC
    const int MSG_TRUNC, MSG_CTRUNC, MSG_PEEK, MSG_MORE
    int socket(int domain, int type, int protocol)
    int bind(int fd, const sockaddr *addr, socklen_t size)
    int connect(int fd, const sockaddr *addr, socklen_t size)
    int accept4(int fd, sockaddr *addr, socklen_t *size, int flags)
    int getsockname(int fd, sockaddr *addr, socklen_t *size)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
    int shutdown(int fd, int how)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    unsigned char *CMSG_DATA(cmsghdr *head)
    size_t CMSG_LEN(size_t size)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    const int IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6, IP_TRANSPARENT, IP_FREEBIND, IPV6_TRANSPARENT, IPV6_FREEBIND

cdef extern from "<netinet/tcp.h>" nogil:
    const int TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t v)
    uint16_t ntohs(uint16_t v)
    const char *inet_ntop(int family, const void *source, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *target)    # 1 on success

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *data, size_t size)
    ssize_t write(int fd, const void *data, size_t size)
    int close(int fd)
    int getpid()

cdef extern from "<fcntl.h>" nogil:
    const int O_NONBLOCK, O_CLOEXEC
    const unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE
    ssize_t splice(int fd_in, off_t *off_in, int fd_out, off_t *off_out, size_t size, unsigned int flags)
    int pipe2(int *fds, int flags)

cdef extern from "<sched.h>" nogil:
    const int CLONE_NEWNET
    int setns(int fd, int nstype)

cdef extern from "<sys/mman.h>" nogil:
    const int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED
    void *mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
    int munmap(void *addr, size_t size)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN, POLLOUT
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    const int CLOCK_MONOTONIC, CLOCK_REALTIME
    int clock_gettime(int clock, timespec *value)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        unsigned long __val[16]
    const int SIGTERM, SIG_BLOCK
    int sigemptyset(sigset_t *set)
    int sigaddset(sigset_t *set, int signal)
    int sigprocmask(int how, const sigset_t *set, sigset_t *old)

cdef extern from "<sys/signalfd.h>" nogil:
    cdef struct signalfd_siginfo:
        uint32_t ssi_signo
    const int SFD_NONBLOCK, SFD_CLOEXEC
    int signalfd(int fd, const sigset_t *mask, int flags)

cdef extern from "<sys/timerfd.h>" nogil:
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    const int TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *old)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *data, size_t size, unsigned int flags)

cdef extern from "<errno.h>" nogil:
    int errno
    const int EAGAIN, EINTR, EINPROGRESS, EINVAL, ECONNRESET, EPIPE, ENOMEM, EPROTO, ETIMEDOUT, EMFILE, ENFILE
    const int ECONNREFUSED, ENOBUFS
