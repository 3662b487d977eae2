/* refuse.h - functions of libraries that refuse when the test says so.
 *
 *     static bool refuse(void);                    // the test's own: is it this call's turn?
 *     WRAP(void *, malloc, NULL, (size_t a), (a))  // malloc() gives NULL when it is
 *
 * The linker's --wrap leads here; tests/c/Makefile says for which functions of which test.
 */
#ifndef REFUSE_H
#define REFUSE_H

#define WRAP(type, name, refused, parameters, arguments)                                                               \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        return refuse() ? (refused) : __real_##name arguments;                                                         \
    }

#endif
