# nginx as contrib/webhook has it, on ports of its own, between the simulator and a node.
#
#   my $web = McWebhook->start($node, role => 'hook');     # ends with the test
#   $web->url;                                             # what mc_register_webhook takes: by fcgiwrap and psql
#   $web->postgrest_url;                                   # the same, to who stands in for PostgREST
#   my $request = $web->postgrest(sub { … });              # what came there while that ran: method, path, headers, body

package McWebhook;

use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use McTest;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

sub start
{
	my ($class, $node, %options) = @_;
	my $folder = "$PostgreSQL::Test::Utils::tmp_check/nginx_$$";
	my $socket = PostgreSQL::Test::Utils::tempdir_short() . '/fcgi';
	my $self = bless { folder => $folder, port => PostgreSQL::Test::Cluster::get_free_port(), pids => [], owner => $$,
		listening => IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') // die "listen: $!" }, $class;

	mkdir $folder or die "$folder: $!";
	my %ours = ('unix:/run/fcgiwrap.socket' => "unix:$socket", '/usr/local/lib/mailchimp_sync' => "$McTest::root/contrib/webhook",
		'/var/run/postgresql' => $node->host, 'PGPORT 5432' => 'PGPORT ' . $node->port, 'PGDATABASE crm' => 'PGDATABASE postgres',
		'PGUSER mailchimp_webhook' => "PGUSER $options{role}", '127.0.0.1:3000' => '127.0.0.1:' . $self->{listening}->sockport,
		# for the site's administrator
		'error_log /dev/null' => "error_log $folder/error.log");
	$self->_configure(%ours);
	$self->_run('fcgiwrap', '-s', "unix:$socket");
	$self->_run('nginx', '-c', "$folder/nginx.conf", '-p', $folder);
	McTest::poll('nginx and fcgiwrap', sub {
		die slurp_file("$folder/out.log") if grep { waitpid($_, POSIX::WNOHANG()) > 0 } @{ $self->{pids} };
		-S $socket && IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port});
	});
	return $self;
}

sub _configure
{
	my ($self, %ours) = @_;
	my $places = '';

	for my $file ('nginx', 'postgrest')
	{
		my $text = slurp_file("$McTest::root/contrib/webhook/$file.conf");
		for my $theirs (sort keys %ours)
		{
			$text =~ s/\Q$theirs\E/$ours{$theirs}/g;
		}
		$text =~ s{location = /mailchimp}{location = /postgrest} if $file eq 'postgrest';
		$places .= $text;
	}
	append_to_file("$self->{folder}/nginx.conf", "daemon off; pid $self->{folder}/pid; worker_processes 1; error_log $self->{folder}/error.log;\nevents {}\nhttp {\n\taccess_log off;\n"
		. join('', map { "\t${_}_temp_path $self->{folder}/$_;\n" } qw(client_body proxy fastcgi uwsgi scgi))
		. "server {\nlisten 127.0.0.1:$self->{port};\n$places}\n}\n");
}

# A program that ends with the test, also when that is killed.
sub _run
{
	my ($self, @command) = @_;
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		$ENV{PATH} .= ':/usr/sbin';
		open(STDOUT, '>>', "$self->{folder}/out.log") && open(STDERR, '>&', \*STDOUT) && exec('setpriv', '--pdeathsig', 'TERM', @command);
		POSIX::_exit(127);
	}
	push @{ $self->{pids} }, $pid;
}

sub url { return "http://127.0.0.1:$_[0]{port}/mailchimp" }
sub postgrest_url { return "http://127.0.0.1:$_[0]{port}/postgrest" }

# PostgREST calls the function in the path with the body, if that is text/plain, and has the headers in a setting.
sub postgrest
{
	my ($self, $work) = @_;
	my %request = (headers => {});

	$work->();
	die 'nothing came to PostgREST' unless IO::Select->new($self->{listening})->can_read($McTest::patience);
	my $client = $self->{listening}->accept;
	($request{method}, $request{path}) = <$client> =~ /^(\S+) (\S+)/;
	while ((my $line = <$client>) =~ /^([^:]+): *(.*?)\r?\n/)
	{
		$request{headers}{ lc $1 } = $2;
	}
	read $client, $request{body}, $request{headers}{'content-length'};
	print $client "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
	close $client;
	return \%request;
}

sub DESTROY
{
	my ($self) = @_;
	local $?;
	return unless $self->{owner} == $$;
	kill 'TERM', @{ $self->{pids} };
	waitpid $_, 0 for @{ $self->{pids} };
}

1;
