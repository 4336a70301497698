/* The CNI plugin as a runtime executes it: one question to the router, and its answer printed.
 *
 * This is quick.py once more, without the interpreter, whose start takes longer than the router
 * takes to make a pod. It knows nothing of pods and cannot read JSON: the router does the work
 * (weavepy/daemon/plugin.py). What is not as always is for the plugin's Python part, a script that
 * follows this program in the same file (native.py). It is given all that was read and heard, so
 * that the router is not asked twice to add a pod.
 *
 * A host without Python has no such part. Nothing is journalled there: a DEL that the router does
 * not hear fails, and a runtime repeats it.
 *
 * Every buffer is static, of a fixed size, and ends in a zero that nothing overwrites.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATH "/v1/cni/execute"
#define HEAD "POST " PATH " HTTP/1.0\r\nHost: weavepy\r\nContent-Length: %10zu\r\n\r\n"
#define RUN_DIRECTORY "/run/weavepy"
#define RUN_VARIABLE "WEAVEPY_RUN_DIR"
#define SOCKET_NAME "weavepy.sock"
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif
#define VERSIONS "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":" \
    "[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"

enum { DONE = 200, NOT_FOUND = 404, REFUSED = 422, ELSEWHERE = 501 }; /* quick.py tells what */
enum { IO_FAILURE = 5, TRY_AGAIN = 11, UNAVAILABLE = 50, FAILED = 100 }; /* of errors.py */
enum { HEAD_ROOM = 128, TRAILER_LENGTH = 9 };

#define MAX_CONFIG_BYTES (4 * 1024 * 1024)
#define MAX_CONTENT_BYTES (192 * 1024)
#define MAX_ANSWER_BYTES (1024 * 1024)
#define MAX_SCRIPT_BYTES (1024 * 1024)

struct text {
    char *bytes;
    size_t length, room;
};
#define TEXT(name, size) \
    static char name##_bytes[(size) + 1]; \
    static struct text name = {name##_bytes, 0, size}

TEXT(config, MAX_CONFIG_BYTES + 1); /* one more than is allowed, so that it shows */
TEXT(request, HEAD_ROOM + MAX_CONTENT_BYTES);
TEXT(answer, MAX_ANSWER_BYTES);
TEXT(script, MAX_SCRIPT_BYTES);

static const struct verb {
    const char *name;
    int timeout_s, code_if_away;
} verbs[] = {
    {"ADD", 40, TRY_AGAIN}, {"DEL", 20, TRY_AGAIN},     {"CHECK", 20, TRY_AGAIN},
    {"GC", 30, TRY_AGAIN},  {"STATUS", 2, UNAVAILABLE}, {"VERSION", 2, TRY_AGAIN},
    {"", 2, TRY_AGAIN}, /* anything else */
};

static const struct verb *asked_verb(void)
{
    const char *name = getenv("CNI_COMMAND");
    const struct verb *verb = verbs;
    while (*verb->name && (!name || strcmp(name, verb->name) != 0))
        verb++;
    return verb;
}

static bool append(struct text *to, const char *bytes, size_t length)
{
    if (length > to->room - to->length)
        return false;
    memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
    return true;
}

/* As much as there is, or as there is room for. */
static bool read_all(int from, struct text *to)
{
    while (to->length < to->room) {
        ssize_t count = read(from, to->bytes + to->length, to->room - to->length);
        if (count == 0)
            return true;
        if (count > 0)
            to->length += count;
        else if (errno != EINTR)
            return false;
    }
    return true;
}

static bool write_all(int to, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t count = write(to, bytes, length);
        if (count < 0 && errno != EINTR)
            return false;
        if (count > 0) {
            bytes += count;
            length -= count;
        }
    }
    return true;
}

/* False if only a reader of JSON could tell where it is. The router checks it, as it is one. */
static bool find_socket(struct sockaddr_un *router)
{
    static const char key[] = "\"runDir\"";
    const char *directory = memmem(config.bytes, config.length, key, strlen(key));
    int length = 0, skipped = 0;
    if (directory) {
        directory += strlen(key);
        sscanf(directory, " : \"%n", &skipped);
        directory += skipped;
        length = strcspn(directory, "\"\\");
        if (!skipped || directory[length] != '"')
            return false;
    }
    if (length == 0) {
        directory = getenv(RUN_VARIABLE);
        if (!directory || !*directory)
            directory = RUN_DIRECTORY;
        length = strlen(directory);
    }
    router->sun_family = AF_UNIX;
    size_t room = sizeof router->sun_path;
    int written = snprintf(router->sun_path, room, "%.*s/" SOCKET_NAME, length, directory);
    return written < (int)room;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool append_variable(const char *key, const char *value)
{
    return append(&request, key, strlen(key)) && append(&request, value, strlen(value) + 1);
}

/* Variables, each ended by a zero, one more zero, the configuration. */
static bool compose(const char *name, const char *socket_path)
{
    extern char **environ;
    char head[HEAD_ROOM];
    size_t head_length = request.length = snprintf(head, sizeof head, HEAD, (size_t)0);
    bool fits = append_variable("NAME=", name) && append_variable("SOCKET=", socket_path);
    for (char **entry = environ; fits && *entry; entry++)
        if (begins(*entry, "CNI_") || begins(*entry, RUN_VARIABLE "="))
            fits = append(&request, *entry, strlen(*entry) + 1);
    fits = fits && append(&request, "", 1) && append(&request, config.bytes, config.length);
    size_t length = request.length - head_length;
    snprintf(head, sizeof head, HEAD, length); /* the length is padded, so the head's is the same */
    memcpy(request.bytes, head, head_length);
    return fits && length <= MAX_CONTENT_BYTES;
}

/* The answer's status, and where its content begins; 0 unless all of it is there. */
static int status(char **content)
{
    char length_line[48], *end = strstr(answer.bytes, "\r\n\r\n");
    if (!end)
        return 0;
    *content = end + strlen("\r\n\r\n");
    snprintf(length_line, sizeof length_line, "\r\ncontent-length: %zu\r\n",
             (size_t)(answer.bytes + answer.length - *content));
    const char *found = strcasestr(answer.bytes, length_line);
    return found && found < end ? atoi(answer.bytes + strlen("HTTP/1.0 ")) : 0;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void receive(int connection, long long deadline_ms)
{
    char *content;
    struct pollfd until = {.fd = connection, .events = POLLIN};
    while (answer.length < answer.room && !status(&content)) {
        long long left_ms = deadline_ms - now_ms();
        int ready = left_ms > 0 ? poll(&until, 1, left_ms) : 0;
        ssize_t count = -1;
        if (ready > 0)
            count = recv(connection, answer.bytes + answer.length, answer.room - answer.length, 0);
        if (ready == 0 || count == 0 || (count < 0 && errno != EINTR))
            return;
        if (count > 0)
            answer.length += count;
    }
}

/* False if nobody was asked; else the answer is what came of it within the time. */
static bool ask(const struct sockaddr_un *router, int timeout_s)
{
    long long deadline_ms = now_ms() + timeout_s * 1000LL;
    struct timeval timeout = {.tv_sec = timeout_s};
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0)
        return false;
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout); /* connect's, too */
    while (connect(connection, (const struct sockaddr *)router, sizeof *router) != 0)
        if (errno != EINTR) {
            close(connection);
            return false;
        }
    size_t sent = 0;
    while (sent < request.length) {
        ssize_t count = send(connection, request.bytes + sent, request.length - sent, MSG_NOSIGNAL);
        if (count < 0 && errno != EINTR)
            break;
        sent += count > 0 ? count : 0;
    }
    if (sent == request.length)
        receive(connection, deadline_ms);
    close(connection);
    return true;
}

/* The descriptor of a file that is nowhere, at its beginning; -1 if there can be none. A hardened
 * kernel wants to know that nobody executes it, one before 6.3 does not understand that. */
static int in_memory(const struct text *text)
{
    int file = memfd_create("weavepy-cni", MFD_NOEXEC_SEAL);
    if (file < 0)
        file = memfd_create("weavepy-cni", 0);
    bool is_there = file >= 0 && write_all(file, text->bytes, text->length);
    return is_there && lseek(file, 0, SEEK_SET) == 0 ? file : -1;
}

/* It is the end of this file, before its own length as eight digits and a line's end. */
static bool read_script(void)
{
    char trailer[TRAILER_LENGTH + 1] = "";
    struct stat about;
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (self < 0 || fstat(self, &about) != 0
        || pread(self, trailer, TRAILER_LENGTH, about.st_size - TRAILER_LENGTH) != TRAILER_LENGTH)
        return false;
    script.length = strtoul(trailer, NULL, 10);
    return script.length <= script.room && !strncmp(trailer + TRAILER_LENGTH - 1, "\n", 1)
        && lseek(self, about.st_size - TRAILER_LENGTH - (off_t)script.length, SEEK_SET) >= 0
        && read(self, script.bytes, script.length) == (ssize_t)script.length;
}

/* Becomes the Python part; returns if there is no Python. Input that could not be read it tries to
 * read, and complains. `begun` is the argument that says when the router was asked, if it was. */
static void become_python(const char *name, bool has_input, char *begun)
{
    char script_path[32], answer_argument[16];
    if (!read_script())
        return;
    int script_file = in_memory(&script), input = in_memory(&config), heard = in_memory(&answer);
    if (script_file < 0 || heard < 0 || (has_input && dup2(input, STDIN_FILENO) < 0))
        return;
    snprintf(script_path, sizeof script_path, "/proc/self/fd/%d", script_file);
    snprintf(answer_argument, sizeof answer_argument, "%d", heard);
    /* The script's first line says what the kernel would run: interpreter and flags. */
    char *rest = script.bytes + strlen("#!");
    char *interpreter = strsep(&rest, " \n"), *flags = strsep(&rest, " \n");
    if (rest)
        execv(interpreter, (char *[]){interpreter, flags, script_path, (char *)name,
                                      begun ? answer_argument : NULL, begun, NULL});
}

static int fail(int code, const char *message)
{
    fprintf(stderr, "weavepy: %s [%d]\n", message, code);
    printf("{\"cniVersion\":\"1.0.0\",\"code\":%d,\"msg\":\"%s\"}\n", code, message);
    return 1;
}

int main(void)
{
    const char *path = (const char *)getauxval(AT_EXECFN), *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const struct verb *verb = asked_verb();
    struct sockaddr_un router = {0};
    struct timespec now;
    char begun[32], *content = answer.bytes;

    bool has_input = read_all(STDIN_FILENO, &config);
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(begun, sizeof begun, "%lld.%09ld", (long long)now.tv_sec, now.tv_nsec);
    bool is_plain = has_input && find_socket(&router) && compose(name, router.sun_path);
    bool asked = is_plain && ask(&router, verb->timeout_s);
    int said = status(&content);
    if (said == REFUSED) {
        char *line_end = strchrnul(content, '\n');
        line_end += *line_end == '\n';
        write_all(STDERR_FILENO, content, line_end - content);
        content = line_end;
    }
    if (said == DONE || said == REFUSED) {
        bool told = write_all(STDOUT_FILENO, content, answer.bytes + answer.length - content);
        return told && said == DONE ? 0 : 1;
    }
    bool is_elsewhere = said == ELSEWHERE || (said == NOT_FOUND && strstr(content, PATH));
    become_python(name, has_input, asked && !is_elsewhere ? begun : NULL);

    if (!strcmp(verb->name, "VERSION"))
        return write_all(STDOUT_FILENO, VERSIONS, strlen(VERSIONS)) ? 0 : 1;
    if (!has_input)
        return fail(IO_FAILURE, "the configuration cannot be read");
    if (is_elsewhere || !is_plain)
        return fail(FAILED, "that takes the plugin's Python part, and there is no Python");
    if (said)
        return fail(FAILED, "the router failed: see its log");
    return fail(verb->code_if_away,
                asked ? "the router did not answer" : "the router is not running");
}
