# Two defects on purpose, which the tests of the performance gate turn on to see it fail. They exist in the `seeded`
# build only (setup.py); in every other build both functions are empty macros and nothing of this reaches the binary.
# The one place below config.py that reads the environment, once: the seed must be chosen without a record for it.
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #ifdef MESH_SEEDED
    #include <stdlib.h>
    #include <string.h>

    static int mesh_seed(const char *name)
    {
        static const char *chosen;
        if (chosen == NULL && (chosen = getenv("MESH_SEED")) == NULL)
            chosen = "";
        return strcmp(chosen, name) == 0;
    }

    static inline void mesh_seed_copy(const uint8_t *data, int size)
    {
        static volatile uint8_t copy[16384];
        if (mesh_seed("copy"))
            for (int i = 0; i < size; i++)
                copy[i % sizeof(copy)] = data[i];
    }

    static inline void mesh_seed_leak(void)
    {
        void *volatile lost = mesh_seed("leak") ? malloc(1024) : NULL;
        if (lost != NULL)
            memset(lost, 1, 1024);
    }
    #else
    #define mesh_seed_copy(data, size) ((void)0)
    #define mesh_seed_leak() ((void)0)
    #endif
    """
    # MESH_SEED=copy: each record is copied once more, byte by byte, before it is sealed.
    void seed_copy "mesh_seed_copy"(const uint8_t *data, int size) noexcept nogil
    # MESH_SEED=leak: each flow loses 1 KiB.
    void seed_leak "mesh_seed_leak"() noexcept nogil
