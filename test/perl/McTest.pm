# What our TAP tests share: the simulator of Mailchimp, and nodes of PostgreSQL::Test::Cluster with our settings.
#
#   use McTest;
#   my $sim = McTest::Simulator->start;                     # ends with the test
#   my $demo = $sim->post('/_sim/demo');                    # the control interface: test/simulator/README.md
#   my $node = McTest::Node->start('main');                 # extension made in database postgres
#   $node->role('mia', level => 'marketer');                # CREATE ROLE and mc_grant
#   $node->query('SELECT 1', as => 'mia');                  # dies on an error; db => other database
#   like($node->error('SELECT 1/0', as => 'mia'), qr/22012/);
#   $node->wait_until('SELECT ok FROM mc_status');
#   my $session = $node->session(as => 'mia');              # a psql that stays: ->query, ->quit
#   McTest::begin($session, 'CALL mc_run();');              # does not wait for the end; ->query('') does
#   $sim->hold(method => 'POST', path => '^/lists', when => 'before');
#   my ($held) = $sim->wait_held;  $sim->release(n => $held->{n});
#
# Tests wait by these functions, each with an end, and never sleep.

package McTest;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use List::Util ();
use Time::HiRes ();

our $root = abs_path(dirname(__FILE__) . '/../..');

# How long anything that is waited for may take, in seconds, on a busy machine.
our $patience = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 120;

# Calls a function until it returns something true, and returns that. The pauses grow with the time that has passed, for
# most looks are a psql each, and what is waited for needs the processor, too; none is longer than so many seconds.
sub poll
{
	my ($what, $function, $longest) = @_;
	my $begin = Time::HiRes::time();

	while ((my $passed = Time::HiRes::time() - $begin) < $patience)
	{
		my $result = $function->();
		return $result if $result;
		Time::HiRes::sleep(List::Util::max(0.02, List::Util::min($passed / 10, $longest // 0.25)));
	}
	die "waited $patience s in vain for $what";
}

# Is a request of the journal one of those by which the engine fetches what an account has, by itself, once a day?
sub is_refresh
{
	my ($request) = @_;
	return $request->{route} =~ m{^GET /(lists|templates|verified-domains)?$}
	  || ($request->{route} eq 'GET /lists/{list_id}/merge-fields' && $request->{query}{fields});
}

# Starts a statement in a session and returns as soon as psql has got it. What it prints comes with the session's
# next query, which waits for it.
sub begin
{
	my ($session, $sql) = @_;
	$session->query_until(qr/^begun$/m, "\\echo begun\n$sql\n");
}

# -------------------------------------------------------------------------------------------------------------
package McTest::Simulator;

use strict;
use warnings;
use Cpanel::JSON::XS ();		# journals are large
use HTTP::Tiny;
use JSON::PP ();
use POSIX ();
use PostgreSQL::Test::Utils;

my $count = 0;
my $json = Cpanel::JSON::XS->new->utf8->canonical->allow_nonref;

# Arguments are passed on to main.js. The simulator ends when its standard input closes, thus also when the test is
# killed; perl keeps that pipe from all other programs that the test starts.
sub start
{
	my ($class, @arguments) = @_;
	my $name = 'simulator' . ++$count;
	my $self = bless {
		log => "$PostgreSQL::Test::Utils::log_path/${name}_" . POSIX::getpid() . '.log',
		http => HTTP::Tiny->new(timeout => $McTest::patience + 10),
	}, $class;
	my $port_file = "$PostgreSQL::Test::Utils::tmp_check/${name}_" . POSIX::getpid() . '.port';

	pipe(my $input, $self->{pipe}) or die "pipe: $!";
	$self->{pid} = fork // die "fork: $!";
	if ($self->{pid} == 0)
	{
		open(STDIN, '<&', $input) && open(STDOUT, '>', $self->{log}) && open(STDERR, '>&', \*STDOUT)
		  && exec('node', "$McTest::root/test/simulator/main.js", '--port', 0, '--port-file', $port_file,
			'--exit-with-stdin', @arguments);
		POSIX::_exit(127);
	}
	McTest::poll('the simulator', sub {
		die 'the simulator ended: ' . slurp_file($self->{log}) if waitpid($self->{pid}, POSIX::WNOHANG()) > 0;
		-s $port_file;
	});
	chomp($self->{port} = slurp_file($port_file));
	unlink $port_file;
	return $self;
}

# What mc_connect takes as endpoint.
sub url { return "http://127.0.0.1:$_[0]{port}" }

sub stop
{
	my ($self) = @_;
	return unless $self->{pipe};
	local $?;
	close delete $self->{pipe};
	waitpid $self->{pid}, 0;
}

sub DESTROY { $_[0]->stop }

sub request
{
	my ($self, $method, $path, $body) = @_;
	my %options = defined $body ? (content => $json->encode($body), headers => { 'content-type' => 'application/json' }) : ();
	my $answer = $self->{http}->request($method, $self->url . $path, \%options);

	die "simulator: $method $path: $answer->{status} $answer->{content}" unless $answer->{success};
	return length $answer->{content} ? $json->decode($answer->{content}) : undef;
}

sub get
{
	my ($self, $path, %parameters) = @_;
	my $query = $self->{http}->www_form_urlencode(\%parameters);
	return $self->request('GET', $query eq '' ? $path : "$path?$query");
}

sub post { return $_[0]->request('POST', $_[1], $_[2] // {}) }
sub delete { return $_[0]->request('DELETE', $_[1]) }

# Entries of the journal: since, route, method, path, and wait with count to wait for requests that are yet to come.
sub journal
{
	my ($self, %filter) = @_;
	return @{ $self->get('/_sim/journal', %filter)->{entries} };
}

# Waits until so many requests that fit have been answered.
sub wait_requests
{
	my ($self, $wanted, %filter) = @_;
	my @entries = $self->journal(%filter, wait => $McTest::patience, count => $wanted);
	my $ended = grep { defined $_->{ended} } @entries;
	die "only $ended of $wanted requests came: " . $json->encode(\%filter) if $ended < $wanted;
	return @entries;
}

sub fault { my ($self, %fault) = @_; return $self->post('/_sim/faults', \%fault)->{id} }
sub hold { my ($self, %hold) = @_; return $self->post('/_sim/holds', \%hold)->{id} }
sub release { my ($self, %which) = @_; return $self->post('/_sim/holds/release', %which ? \%which : { all => JSON::PP::true }) }

# Waits until so many requests (default 1) are held.
sub wait_held
{
	my ($self, $wanted) = @_;
	$wanted //= 1;
	my $held = $self->get('/_sim/holds', wait => $McTest::patience, count => $wanted)->{held};
	die 'only ' . @$held . " of $wanted requests are held" if @$held < $wanted;
	return @$held;
}

# -------------------------------------------------------------------------------------------------------------
package McTest::Node;

use strict;
use warnings;
use parent 'PostgreSQL::Test::Cluster';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils qw(slurp_file);
use McClient;

my $nodes = 0;

# A started node with test/postgresql.conf. conf => text is added to that; extension => 0 leaves the extension out.
# Called for a node that is there already, it starts that, as in the parent class.
sub start
{
	my ($self, @arguments) = @_;
	return $self->SUPER::start(@arguments) if ref $self;

	my ($name, %options) = @arguments;
	my $node = $self->new($name);
	my $made = $node->_init($options{extension} // 1, %{ $options{init} // {} });
	$node->append_conf('postgresql.conf', slurp_file("$McTest::root/test/postgresql.conf"));
	$node->append_conf('postgresql.conf', $options{conf}) if defined $options{conf};
	$node->SUPER::start;
	$node->query('CREATE EXTENSION mailchimp_sync') if ($options{extension} // 1) && !$made;
	return $node;
}

# The cluster of a test's first node is a copy of one of test/run's, which has the extension already (true) or not. Another would
# be the same cluster to us, which is what tests of several are about.
sub _init
{
	my ($self, $extension, %init) = @_;
	my $template = "$ENV{MC_TEMPLATE}/" . ($extension ? 'extension' : 'plain');
	my $run = \&PostgreSQL::Test::Utils::system_or_bail;
	my $copied;

	no warnings 'redefine';
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		return $run->(@_) if $_[0] ne 'initdb' || $init{extra} || $nodes++;
		$copied = 1;
		return $run->('cp', '-a', $template, $self->data_dir);
	};
	$self->init(%init);
	return $copied && $extension;
}

# A role that may log in, with a level (reader, marketer, admin) where one is given.
sub role
{
	my ($self, $role, %options) = @_;
	$self->query("CREATE ROLE $role LOGIN", %options) unless $self->query("SELECT to_regrole('$role')", %options);
	$self->query("SELECT mc_grant('$role', '$options{level}')", %options) if $options{level};
	return $role;
}

sub _psql_options { my (%options) = @_; return $options{as} ? [ '-U', $options{as} ] : [] }

sub _where
{
	my ($self, %options) = @_;
	return ($self->host . '/.s.PGSQL.' . $self->port, $options{db} // 'postgres', $options{as} // scalar getpwuid($>));
}

# Runs SQL as a role in a database, dies on an error, returns what it printed.
sub query
{
	my ($self, $sql, %options) = @_;
	return McClient::run($self->_where(%options), $sql) if McClient::can_run($sql);
	return $self->safe_psql($options{db} // 'postgres', $sql, extra_params => _psql_options(%options));
}

# Runs SQL that is to fail and returns all that psql says of it, SQLSTATE, DETAIL and HINT included; '' without an error.
sub error
{
	my ($self, $sql, %options) = @_;
	my ($status, undef, $stderr) = $self->psql($options{db} // 'postgres', $sql, on_error_stop => 1,
		extra_params => [ @{ _psql_options(%options) }, '-v', 'VERBOSITY=verbose' ]);
	return $status == 0 ? '' : $stderr;
}

# Our clock is so many seconds ahead of the machine's, for every session that begins from now on.
sub clock_ahead
{
	my ($self, $seconds) = @_;
	my $is = "SELECT current_setting('mailchimp_sync.clock_offset')::interval = interval '$seconds s'";
	my $read = $self->query("ALTER SYSTEM SET mailchimp_sync.clock_offset = '$seconds s';
		DO \$\$ BEGIN PERFORM pg_reload_conf(), pg_sleep(0.005); END \$\$; $is");

	$self->wait_until($is) if $read ne 't';		# a session that is there reads it when it gets round to it
}

# Waits until a query returns t.
sub wait_until
{
	my ($self, $sql, %options) = @_;
	my $session;

	McTest::poll($sql, sub {
		# one session for all looks, for a new one has everything to learn again; another if that has ended
		my $answer = $session && eval { McClient::ask($session, $sql) };
		return ($answer // McClient::ask($session = McClient::connect_to($self->_where(%options)), $sql)) eq 't';
	});
}

# The same while the server recovers from a crash and lets nobody in; psql may be gone before it was told what to ask.
sub wait_back
{
	my ($self, $sql, %options) = @_;
	McTest::poll($sql, sub { (eval { $self->query($sql, %options) } // '') eq 't' });
}

# Kills a process of the server, which ends all others; returns when the server has recovered.
sub kill_backend
{
	my ($self, $pid) = @_;
	kill 'KILL', $pid or die "kill $pid: $!";
	$self->wait_back("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
}

# The pid of the worker that is the engine of a database; waits for it.
sub worker
{
	my ($self, %options) = @_;
	return McTest::poll('a worker', sub { $self->query('SELECT pid FROM mailchimp_sync.engine() WHERE is_worker', %options) });
}

# Two crashes, after which a worker is at work again: the one before is killed, or the whole server stops at once.
sub kill_worker
{
	my ($self, %options) = @_;
	$self->kill_backend($self->worker(%options));
	$self->worker(%options);
}

sub stop_at_once
{
	my ($self, %options) = @_;
	$self->stop('immediate');
	$self->start;
	$self->worker(%options);
}

# Where the server's log ends now; wait_log looks from there.
sub log_end { return -s $_[0]->logfile }

sub wait_log
{
	my ($self, $pattern, $from) = @_;
	McTest::poll("$pattern in the log", sub { slurp_file($self->logfile, $from // 0) =~ $pattern });
}

# A psql session that stays. Errors do not end it; they are in ->{stderr} after a query.
sub session
{
	my ($self, %options) = @_;
	return $self->background_psql($options{db} // 'postgres', on_error_stop => 0, extra_params => _psql_options(%options));
}

1;
