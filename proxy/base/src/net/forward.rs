//! What a byte stream over another one leaves to that one.

/// Writes methods of `AsyncRead` or `AsyncWrite` that hand a poll to the stream in a field, inside the `impl` block of
/// whoever has that field. A stream that looks at one kind of poll writes only that one itself.
///
/// `forward!(io: read, write, flush, shutdown)`, and with `then passed` the outcome goes through a method of the owner:
/// `fn passed<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>>`.
/// `write` is both kinds of writes: without the vectored one bodies are copied. `is_vectored` is for an owner that
/// has both itself.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward {
    ($io:ident: $($kind:ident),+) => {
        $($crate::__forward!(@$kind $io);)+
    };
    ($io:ident: $($kind:ident),+ then $then:ident) => {
        $($crate::__forward!(@$kind $io $then);)+
    };
    (@read $io:ident) => {
        fn poll_read(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            buf: &mut ::tokio::io::ReadBuf<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::tokio::io::AsyncRead::poll_read(::std::pin::Pin::new(&mut self.$io), cx, buf)
        }
    };
    (@write $io:ident $($then:ident)?) => {
        $crate::__forward!(@poll poll_write(buf: &[u8]) -> usize, $io $($then)?);
        $crate::__forward!(@poll poll_write_vectored(bufs: &[::std::io::IoSlice<'_>]) -> usize, $io $($then)?);
        $crate::__forward!(@is_vectored $io);
    };
    (@is_vectored $io:ident) => {
        fn is_write_vectored(&self) -> bool {
            ::tokio::io::AsyncWrite::is_write_vectored(&self.$io)
        }
    };
    (@flush $io:ident $($then:ident)?) => {
        $crate::__forward!(@poll poll_flush() -> (), $io $($then)?);
    };
    (@shutdown $io:ident $($then:ident)?) => {
        $crate::__forward!(@poll poll_shutdown() -> (), $io $($then)?);
    };
    (@poll $poll:ident($($what:ident: $of:ty)?) -> $done:ty, $io:ident) => {
        fn $poll(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            $($what: $of,)?
        ) -> ::std::task::Poll<::std::io::Result<$done>> {
            ::tokio::io::AsyncWrite::$poll(::std::pin::Pin::new(&mut self.$io), cx $(, $what)?)
        }
    };
    (@poll $poll:ident($($what:ident: $of:ty)?) -> $done:ty, $io:ident $then:ident) => {
        fn $poll(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            $($what: $of,)?
        ) -> ::std::task::Poll<::std::io::Result<$done>> {
            let polled = ::tokio::io::AsyncWrite::$poll(::std::pin::Pin::new(&mut self.$io), cx $(, $what)?);
            self.$then(polled, cx)
        }
    };
}

pub use crate::__forward as forward;
